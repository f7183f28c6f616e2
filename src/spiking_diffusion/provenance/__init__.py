"""Upkeep of files: taking over those that DVC brought, hashing all again, removing those that nothing names."""
