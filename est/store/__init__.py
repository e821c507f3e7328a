"""The SQL of `est`: rows in, frozen values out."""
