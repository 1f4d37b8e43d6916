"""The test kit for authors of workflows: fixtures and helpers that the guide and this repository's tests use.

It runs workflows in seconds on a real Postgres, a real Temporal with virtual time, and real SMTP and HTTP servers.
`-p testing.plugin`, or `pytest_plugins = ["testing.plugin"]` in a `conftest.py`, loads the fixtures.

The import path is ``testing``, and not ``perennial.testing``, as it is ``workflows.authoring``: each folder at the
root is a package, and none is called ``perennial``. The product never imports this package.
"""
