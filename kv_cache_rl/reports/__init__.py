"""What came out: statistics, tables and the HTML page. Reads finished results, decides nothing."""
