"""From logits to tokens: penalties, filters, and the noise that makes a sample a function of the seed."""
