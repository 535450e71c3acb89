"""SQL database, schema, migrations, and the Redis or Valkey that replicas share."""
