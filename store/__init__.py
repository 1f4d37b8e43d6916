"""Every SQL statement, one file per aggregate."""
