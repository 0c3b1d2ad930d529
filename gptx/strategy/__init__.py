"""Strategies: how a run is spread over processes, which never changes what it computes. Collectives live only here."""
