"""The usage ledger: one row per request, inserted before its first token and completed once, and reports over them."""

from gateway.ledger.baseline import counted_ns
from gateway.ledger.entry import Ended, Progress, Started
from gateway.ledger.ledger import Entry, Ledger
from gateway.ledger.prices import Prices, PricesError

__all__ = ["Ended", "Entry", "Ledger", "Prices", "PricesError", "Progress", "Started", "counted_ns"]
