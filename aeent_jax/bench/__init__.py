"""Speed on this hardware, always beside something it is compared with."""
