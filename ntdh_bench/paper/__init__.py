"""What is of the NTDH paper alone: exhibits, claims, printed numbers, the preset of its code."""
