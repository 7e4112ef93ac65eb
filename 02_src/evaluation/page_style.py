"""The report's style sheet: light and dark by the reader's setting, printable, no web fonts."""

STYLE = """
:root { color-scheme: light dark;
  --page: #fbfbf9; --card: #ffffff; --ink: #1c2126; --soft: #5d6770; --line: #dfe3e6;
  --tuned: #2f6fb0; --base: #a9b2ba; --track: #eceff1; --whisker: #1c2126;
  --right: #2f7d55; --other: #c2790c; --unknown: #7d8a96; --invented: #b4413c; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14171a; --card: #1c2024; --ink: #e6e9ec; --soft: #9aa5ae; --line: #30363c;
  --tuned: #6ea8e0; --base: #66717b; --track: #272d32; --whisker: #e6e9ec;
  --right: #57b287; --other: #e0a03c; --unknown: #8794a0; --invented: #e0726c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 22px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 36px 0 10px; }
h3 { font-size: 15px; margin: 18px 0 6px; }
p, li { max-width: 78ch; } .soft, caption, figcaption { color: var(--soft); }
.verdict { background: var(--card); border: 1px solid var(--line);
  border-left: 4px solid var(--tuned); border-radius: 6px; padding: 16px 20px; margin: 18px 0; }
.verdict p { font-size: 19px; line-height: 1.4; margin: 0 0 8px; font-weight: 600; }
.verdict ul { margin: 0; padding-left: 18px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; background: var(--card);
  font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 7px 10px;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; font-size: 13px; color: var(--soft); }
td.split { font-weight: 600; } td.value { min-width: 150px; }
td small { color: var(--soft); } .better { font-size: 12px; color: var(--soft); }
td.answer { border-left: 3px solid var(--line); width: 33%; overflow-wrap: anywhere; }
td.grounded { border-left-color: var(--right); } td.confused { border-left-color: var(--other); }
td.abstained { border-left-color: var(--unknown); }
td.invented { border-left-color: var(--invented); }
.tag { font-size: 12px; font-weight: 600; display: block; }
.grounded .tag { color: var(--right); } .confused .tag { color: var(--other); }
.abstained .tag { color: var(--unknown); } .invented .tag { color: var(--invented); }
.context { white-space: pre-line; }
svg.cell { display: block; width: 100%; height: 8px; margin-top: 4px; }
svg.chart { width: 100%; max-width: 820px; height: auto; font-size: 12px; }
svg text { fill: var(--ink); } svg text.label { text-anchor: end; }
svg text.in { text-anchor: middle; fill: var(--card); font-weight: 600; }
.track { fill: var(--track); } .tuned { fill: var(--tuned); } .base { fill: var(--base); }
.whisker { fill: var(--whisker); } rect.grounding { fill: var(--right); }
rect.confusion { fill: var(--other); } rect.abstention { fill: var(--unknown); }
rect.invention { fill: var(--invented); }
.legend span { display: inline-block; margin-right: 16px; font-size: 13px; }
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 2px;
  margin-right: 5px; vertical-align: -1px; }
details { background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: 8px 14px; margin: 10px 0; } summary { cursor: pointer; font-weight: 600; }
@media print { details { display: block; } main { max-width: none; } }
"""
