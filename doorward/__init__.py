"""The only wiring: configuration, processes, the database, and one list that builds everything (`app.py`)."""
