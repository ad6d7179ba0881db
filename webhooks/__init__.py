"""What providers tell us: verified, stored once, then applied."""
