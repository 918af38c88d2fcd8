"""Gossip: who exchanges parameters with whom (topologies), through what (slots, mailboxes), and how."""
