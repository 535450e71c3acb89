"""Draft proposers that need no model: prompt lookup (n-grams) and the client's predicted output."""
