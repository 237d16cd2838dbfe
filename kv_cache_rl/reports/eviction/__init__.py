"""Tables, charts and the HTML page of an evaluation."""
