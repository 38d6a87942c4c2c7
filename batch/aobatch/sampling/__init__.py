"""From logits to tokens: parameters, random numbers, processors, filters, draw and logprobs."""
