"""What a certificate is: X.509 vocabulary, bytes in and values out.

Nothing here reads a clock, a socket, a database or a private key; the one thing read from disk is the packaged
`profiles/*.toml`. Whoever issues, stores or serves certificates stands to the right of this package and says
what it means in these words.
"""
