"""Accounts: tenants, and keys with the principals that they stand for and the limits that they carry.

It knows SQL and no HTTP (gateway/http/authentication.py does); that limits are kept is gateway/limits/admission.py's.
"""

from gateway.accounts.keys import Accounts, KeyRecord
from gateway.accounts.principal import NO_LIMITS, SCOPES, KeyLimits, Owner, Principal
from gateway.accounts.tenants import Tenant, TenantExists, Tenants, UnknownTenant
from gateway.accounts.watch import KeyWatch

__all__ = [
    "NO_LIMITS",
    "SCOPES",
    "Accounts",
    "KeyLimits",
    "KeyRecord",
    "KeyWatch",
    "Owner",
    "Principal",
    "Tenant",
    "TenantExists",
    "Tenants",
    "UnknownTenant",
]
