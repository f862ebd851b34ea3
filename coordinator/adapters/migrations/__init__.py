"""The store's schema, version by version; `sql_connection.migrate` runs them."""
