"""What ties models, data, attacks and reports together: the audit. The roof: it imports all floors."""
