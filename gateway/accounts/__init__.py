"""Accounts: tenants, and keys with the principals that they stand for and the limits that they carry.

It knows SQL and no HTTP (gateway/authentication.py does); that limits are kept is gateway/admission.py's.
"""

from gateway.accounts.keys import Accounts, KeyRecord
from gateway.accounts.principal import NO_LIMITS, SCOPES, Limits, Owner, Principal
from gateway.accounts.tenants import Tenant, TenantExists, Tenants, UnknownTenant
from gateway.accounts.watch import KeyWatch

__all__ = [
    "NO_LIMITS",
    "SCOPES",
    "Accounts",
    "KeyRecord",
    "KeyWatch",
    "Limits",
    "Owner",
    "Principal",
    "Tenant",
    "TenantExists",
    "Tenants",
    "UnknownTenant",
]
