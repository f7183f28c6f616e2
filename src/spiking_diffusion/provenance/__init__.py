"""Upkeep of files: ``sync`` for files that DVC brought, ``verify`` for all hashes, ``prune`` for unused files, and
``status``."""
