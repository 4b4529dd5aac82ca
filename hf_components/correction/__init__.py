"""An instruct model corrects what a recogniser heard; every edit passes a gate, or the recogniser's text stays."""
