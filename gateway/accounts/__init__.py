"""Accounts in SQL: tenants, API keys, and the principal and limits of each key.

Reading a key from a request is gateway/http/authentication.py's; enforcing limits is gateway/limits/'s.
"""

from gateway.accounts.keys import Accounts, KeyRecord, key_digest
from gateway.accounts.principal import NO_LIMITS, SCOPES, KeyLimits, Owner, Principal
from gateway.accounts.tenants import Tenant, TenantExists, Tenants, UnknownTenant
from gateway.accounts.visibility import NotVisible, Visibility, visible_to
from gateway.accounts.watch import KeyWatch

__all__ = [
    "NO_LIMITS",
    "SCOPES",
    "Accounts",
    "KeyLimits",
    "KeyRecord",
    "KeyWatch",
    "NotVisible",
    "Owner",
    "Principal",
    "Tenant",
    "TenantExists",
    "Tenants",
    "UnknownTenant",
    "Visibility",
    "key_digest",
    "visible_to",
]
