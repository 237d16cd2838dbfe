"""A real engine beside the hierarchy lab: what it is asked, what it did, and the same requests in the lab."""
