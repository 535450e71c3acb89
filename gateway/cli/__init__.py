"""Commands on the gateway's database: keys, tenants, usage, db."""
