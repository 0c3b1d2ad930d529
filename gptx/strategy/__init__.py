"""Strategies: how a run is split over processes; its results do not depend on it. Only strategies use collectives."""
