"""The report's style sheet: light and dark, no outside fonts."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fbfbfa; --card: #ffffff; --ink: #1c2330; --soft: #5c6675; --faint: #8a93a1;
  --rule: #e4e6ea; --grid: #eceef1; --window: #f0f4f8; --edge: #7d8896; --heat: #0072b2;
  --on-heat: #ffffff; --warn: #a84300; --good: #00714f;
  --c0: #4b5563; --c1: #0072b2; --c2: #d55e00; --c3: #00875f; --c4: #a0438f; --c5: #a87400;
  --c6: #2f8fd0; --c7: #7a4b1e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12151b; --card: #191d25; --ink: #e8ebf0; --soft: #a9b2bf; --faint: #7c8694;
    --rule: #2b313c; --grid: #262c36; --window: #1f2631; --edge: #8a94a3; --heat: #4fa8e8;
    --on-heat: #0b1018; --warn: #ffa766; --good: #35cf9f;
    --c0: #b6bfca; --c1: #58b0f0; --c2: #ff8e4d; --c3: #2fc79a; --c4: #e08fd6; --c5: #f0c04a;
    --c6: #9ad6ff; --c7: #cda077;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  -webkit-font-smoothing: antialiased;
}
main { max-width: 1080px; margin: 0 auto; padding: 44px 24px 80px; }
.eyebrow { color: var(--soft); font-size: 14px; margin: 0 0 10px; }
.eyebrow b { color: var(--ink); font-weight: 600; }
h1 { font-size: 31px; line-height: 1.22; letter-spacing: -.017em; font-weight: 650;
  margin: 0 0 18px;
  max-width: 32em; text-wrap: balance; }
h2 { font-size: 20px; letter-spacing: -.01em; margin: 0 0 4px; font-weight: 640; }
h3 { font-size: 15px; margin: 0 0 8px; font-weight: 620; }
p { margin: 0 0 14px; max-width: 46em; }
ul.findings { margin: 0; padding: 0; list-style: none; max-width: 52em; }
ul.findings li { padding: 1px 0 1px 18px; border-left: 3px solid var(--rule); margin: 0 0 12px; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 12px;
  padding: 26px 28px 24px; margin-top: 26px; }
.what { color: var(--soft); font-size: 14.5px; margin-bottom: 18px; }
figure { margin: 0 0 8px; overflow-x: auto; }
figure svg { display: block; max-width: 100%; height: auto; overflow: visible; }
figure.wide svg { width: 100%; min-width: 720px; }
figcaption { color: var(--soft); font-size: 13.5px; max-width: 60em; margin: 4px 0 22px; }
.maps { display: flex; flex-wrap: wrap; gap: 22px 34px; margin-bottom: 10px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px;
  font-variant-numeric: tabular-nums; }
th { text-align: right; font-weight: 600; color: var(--soft); font-size: 13px;
  padding: 6px 12px 8px;
  border-bottom: 1px solid var(--rule); white-space: nowrap; vertical-align: bottom; }
td { text-align: right; padding: 7px 12px; border-bottom: 1px solid var(--grid);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tr:last-child td { border-bottom: 0; }
td.words, th.words { text-align: left; white-space: normal; }
td .track { display: inline-block; width: 84px; margin-left: 10px; text-align: left; }
td .bar { display: inline-block; height: 9px; border-radius: 2px; min-width: 2px; }
td.good { color: var(--good); } td.bad { color: var(--warn); } td small { color: var(--soft); }
.swatch { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 9px; }
tr.group td { color: var(--soft); font-weight: 600; font-size: 13px; padding-top: 18px;
  text-align: left; }
.refused { color: var(--warn); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 5px 22px; margin: 0;
  font-size: 14px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
code, pre { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { background: var(--window); border-radius: 8px; padding: 12px 16px; overflow-x: auto;
  margin: 6px 0 18px;
  white-space: pre-wrap; }
details summary { cursor: pointer; color: var(--soft); font-size: 14px; margin-bottom: 8px; }
footer { color: var(--faint); font-size: 13px; margin-top: 26px; }

svg text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif;
  fill: var(--ink);
  font-variant-numeric: tabular-nums; }
svg .axis { fill: var(--soft); font-size: 12.5px; }
svg .strong { fill: var(--ink); font-weight: 600; }
svg .note { fill: var(--soft); font-size: 12px; }
svg .grid { stroke: var(--grid); } svg .zero { stroke: var(--edge); stroke-width: 1.4; }
svg .tick { stroke: var(--edge); }
svg .window { fill: var(--window); } svg .edge { stroke: var(--edge); stroke-dasharray: 3 3; }
svg .curve { fill: none; stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; }
svg .curve.reference { stroke-dasharray: 5 5; stroke-width: 1.6; }
svg .mark.reference { display: none; }
svg .lead { fill: none; stroke-width: 1; opacity: .6; }
svg .band { stroke: none; opacity: .16; }
svg .mark { stroke: var(--card); stroke-width: 1; }
svg .name { font-weight: 600; font-size: 13px; }
svg .again { stroke-dasharray: 2 4; }
svg .heat { fill: var(--heat); }
svg .share { font-size: 13px; font-weight: 550; } svg .share.strong { fill: var(--on-heat); }
@media print { section { break-inside: avoid; } body { font-size: 13px; } }
""" + "\n".join(
    f"svg .curve.{kind}, svg .lead.{kind} {{ stroke: var({name}); }} "
    f"svg .band.{kind}, svg .mark.{kind}, svg .name.{kind} {{ fill: var({name}); }} "
    f".bar.{kind}, .swatch.{kind} {{ background: var({name}); }}"
    for kind, name in [("reference", "--soft"), *((f"c{i}", f"--c{i}") for i in range(8))]
)
