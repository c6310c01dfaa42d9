"""The only users of the Postgres driver."""
