"""``pcka init``: a config that trains, written from what lies in a folder of data."""
