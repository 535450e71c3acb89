"""The usage ledger: one row per request, inserted before its first token and completed once, and reports over them."""

from gateway.ledger.entry import Ended, Started
from gateway.ledger.ledger import Entry, Ledger
from gateway.ledger.prices import Prices, PricesError

__all__ = ["Ended", "Entry", "Ledger", "Prices", "PricesError", "Started"]
