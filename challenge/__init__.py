"""Proving a key: a challenge that costs the server nothing, a signature over it, and a token for it."""
