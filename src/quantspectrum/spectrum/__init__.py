"""From a ranking and its constraints to profiles."""
