"""Temporary."""

import torch


class Categorical:
    def sample(self, logits, generator):
        arrivals = torch.empty_like(logits).exponential_(generator=generator)
        return (logits - arrivals.log_()).argmax(-1)

    def log_prob(self, logits, actions):
        return logits.log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self, logits):
        l = logits.log_softmax(-1)
        return -(l.exp() * l).sum(-1)

    def kl(self, a, b):
        a, b = a.log_softmax(-1), b.log_softmax(-1)
        return (a.exp() * (a - b)).sum(-1)
