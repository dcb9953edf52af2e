// All pages that have every word that was asked for: first those with them in their titles, then those with
// the words in a row.
const asked = new URLSearchParams(location.search).get("q") || "";
const phrase = asked.trim().toLowerCase();
const words = asked.toLowerCase().split(/\s+/).filter(Boolean);
const found = words.length === 0 ? [] : PAGES
  .map(page => ({ page, title: page.title.toLowerCase(), text: page.text.toLowerCase() }))
  .filter(({ title, text }) => words.every(word => title.includes(word) || text.includes(word)))
  .map(hit => ({ ...hit, weight: 2 * words.filter(word => hit.title.includes(word)).length + hit.text.includes(phrase) }))
  .sort((a, b) => b.weight - a.weight);

const list = document.getElementById("found");
document.querySelector("input[name=q]").value = asked;
const count = document.createElement("p");
count.textContent = words.length ? `${found.length} pages for “${asked}”` : "Type a word into the field above.";
list.append(count);
for (const { page, text } of found) {
  const entry = document.createElement("p");
  const link = document.createElement("a");
  link.href = page.url;
  link.textContent = page.title;
  const place = text.includes(phrase) ? text.indexOf(phrase) : text.indexOf(words[0]);
  const at = Math.max(0, place - 60);
  const part = document.createElement("span");
  part.textContent = ` … ${page.text.slice(at, at + 160)} …`;
  entry.append(link, document.createElement("br"), part);
  list.append(entry);
}
