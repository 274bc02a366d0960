"""What AHA costs and what it buys: measured side by side, in one run, as ratios."""
