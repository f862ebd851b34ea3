"""Pure rules that device and coordinator must agree on: money, leases, tables, rewards."""
