#!/usr/bin/env bash
# The postgres image runs this once, in an empty data directory. Makes the roles of runtime/embedded/postgres_roles.py:
# perennial_owner owns the database and migrates it; perennial_app serves and owns nothing. Each migration grants
# perennial_app its rights to the tables that the migration makes.
set -euo pipefail

psql --no-psqlrc --set=ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    --set=owner_password="$PERENNIAL_OWNER_PASSWORD" --set=app_password="$PERENNIAL_APP_PASSWORD" <<'SQL'
CREATE ROLE perennial_owner LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS
    PASSWORD :'owner_password';
CREATE ROLE perennial_app LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS
    PASSWORD :'app_password';
CREATE DATABASE perennial OWNER perennial_owner;
REVOKE ALL ON DATABASE perennial FROM PUBLIC;
REVOKE ALL ON DATABASE postgres FROM PUBLIC;
REVOKE ALL ON DATABASE template1 FROM PUBLIC;
GRANT CONNECT ON DATABASE perennial TO perennial_app;
GRANT pg_read_all_stats TO perennial_owner;
SQL
