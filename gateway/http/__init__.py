"""What every HTTP request shares around its body (bodies/): keys, errors, disconnects, drain, and what is sent back."""
