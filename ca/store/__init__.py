"""The SQL of `ca`: rows in, frozen values out."""
