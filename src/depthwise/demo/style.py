"""How the page looks: light, and as readable on a phone as on a desk."""

CSS = """
:root { color-scheme: light; }
body { margin: 0 auto; padding: 1rem 1.25rem 3rem; max-width: 960px; background: #fff; color: #1f2937;
  font: 1rem/1.55 system-ui, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 1rem 0; }
h2 { font-size: 1.25rem; margin: 2.25rem 0 0.5rem; }
a { color: #0072b2; }
pre { background: #f3f4f6; padding: 0.75rem 1rem; border-radius: 6px; overflow-x: auto; font-size: 0.85rem;
  line-height: 1.45; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 0.75rem; margin: 1rem 0; }
.cards div { background: #f3f4f6; border-radius: 6px; padding: 0.75rem 1rem; font-size: 0.9rem; color: #4b5563; }
.cards strong { display: block; font-size: 1.6rem; line-height: 1.3; color: #1f2937; }
.result { border-collapse: collapse; width: 100%; margin: 1rem 0 0.5rem; font-size: 0.95rem; }
.result th, .result td { border-bottom: 1px solid #d1d5db; padding: 0.45rem 0.6rem; text-align: right;
  font-variant-numeric: tabular-nums; }
.result th:first-child { text-align: left; font-weight: 400; }
.result thead th { color: #4b5563; font-weight: 600; }
.result tr.verdict th, .result tr.verdict td { font-weight: 700; background: #fef3e2; }
.note { font-size: 0.85rem; color: #4b5563; }
.formula { background: #fef3e2; border-radius: 6px; padding: 0.6rem 1rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr)); gap: 1rem;
  margin: 2rem 0 0; }
.plots img { width: 100%; height: auto; }
.picture { overflow-x: auto; }
.picture svg { display: block; width: 100%; min-width: 640px; height: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.25rem 1rem; font-size: 0.9rem; }
dt { color: #4b5563; }
dd { margin: 0; }
@media (max-width: 640px) {
  .result thead { display: none; }
  .result tr { display: block; padding: 0.4rem 0; border-bottom: 1px solid #d1d5db; }
  .result th, .result td { border: 0; padding: 0.1rem 0.5rem; }
  .result tbody th { display: block; font-weight: 600; }
  .result td { display: flex; justify-content: space-between; gap: 1rem; }
  .result td::before { content: attr(data-label); color: #4b5563; font-weight: 400; }
  .result td:empty { display: none; }
  dl { display: block; }
  dd { margin: 0 0 0.5rem; }
}
""".strip()
