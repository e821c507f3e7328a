"""The SQL of `iam`: rows in, frozen values out. `database.py` has what every store stands on."""
