"""Gossip: with whom (topologies), through what (slots, mailboxes), and how (mixing)."""
