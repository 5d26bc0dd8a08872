// Renders a small, safe part of Markdown: paragraphs, lists, headings, bold, italic and code.
// A link or a picture becomes its text, HTML stays text, and nothing is fetched: an answer is written by a model that
// has read pictures of strangers.

import { h } from "./dom.js";

const INLINE = /`([^`\n]+)`|\*\*(?=\S)([^\n]+?)\*\*|__(?=\S)([^\n]+?)__|\*(?=[^\s*])([^*\n]+?)\*|(?<![\w/])_(?=[^\s_])([^_\n]+?)_(?!\w)|!?\[([^\]\n]*)\]\([^)\n]*\)/;
const ITEM = /^\s*(?:[-*+•]|(\d{1,3})[.)])\s+(.*)$/;
const HEADING = /^#{1,6}\s+(.*?)\s*#*$/;
const FENCE = /^\s*```/;
const MAX_DEPTH = 4;

/** @param {string} text @param {number} [depth] @returns {(Node|string)[]} */
function inline(text, depth = 0) {
  const nodes = [];
  for (let rest = text, found; rest; ) {
    found = depth < MAX_DEPTH ? INLINE.exec(rest) : null;
    if (!found) return [...nodes, rest];
    const [whole, code, bold, strong, italic, soft, label] = found;
    if (found.index) nodes.push(rest.slice(0, found.index));
    if (code) nodes.push(h("code", {}, code));
    else if (bold || strong) nodes.push(h("strong", {}, inline(bold ?? strong, depth + 1)));
    else if (italic || soft) nodes.push(h("em", {}, inline(italic ?? soft, depth + 1)));
    else nodes.push(...inline(label ?? "", depth + 1));
    rest = rest.slice(found.index + whole.length);
  }
  return nodes;
}

/** The elements of an answer. Never fails: what is no Markdown is text. @param {string} text @returns {HTMLElement[]} */
export function markdown(text) {
  const blocks = [];
  let lines = [], list = null, code = null;
  const endLines = () => {
    if (lines.length) blocks.push(h("p", {}, lines.flatMap((line, n) => [n > 0 && h("br"), ...inline(line)])));
    lines = [];
  };
  for (const line of text.split("\n")) {
    if (FENCE.test(line)) {
      endLines();
      if (code) blocks.push(h("pre", {}, code.join("\n")));
      [code, list] = [code ? null : [], null];
      continue;
    }
    if (code) { code.push(line); continue; }
    const item = ITEM.exec(line), heading = HEADING.exec(line);
    if (!item && !line.trim()) { endLines(); continue; }
    if (item) {
      endLines();
      const tag = item[1] ? "ol" : "ul";
      if (list?.tagName.toLowerCase() !== tag) blocks.push(list = h(tag, { start: item[1] ?? null }));
      list.append(h("li", {}, inline(item[2])));
      continue;
    }
    list = null;
    if (heading) { endLines(); blocks.push(h("p", {}, h("strong", {}, inline(heading[1])))); } else lines.push(line);
  }
  endLines();
  if (code) blocks.push(h("pre", {}, code.join("\n")));
  return blocks;
}
