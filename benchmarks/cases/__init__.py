"""The cases, one file for each path that is measured."""
