"""Pages of Trellis: plain ES modules and style sheets, joined for a widget or for one HTML file."""
