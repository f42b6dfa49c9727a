#include <algorithm>
#include <numeric>

#include "internal.h"

namespace prge {
namespace {

struct Reader {
  const std::vector<int32_t>& words;
  const Manifest& m;
  size_t at = 0;

  int32_t next(int64_t least = INT32_MIN, int64_t below = INT64_MAX) {
    if (at == words.size() || words[at] < least || words[at] >= below) throw Odd("");
    return words[at++];
  }

  Example example(bool candidate = false) {
    Example e{next(), next(), {}, {}};
    int64_t count = next(1, m.max_tokens + 1), choices = next(0);
    if ((choices > 0) != (m.choices && !candidate)) throw Odd("");
    while (count-- > 0) e.tokens.push_back(next(0, m.vocabulary));
    bool once = m.answer_at != "mask" || std::count(e.tokens.begin(), e.tokens.end(), m.mask_token) == 1;
    int64_t most = std::min<int64_t>(m.max_targets, e.tokens.size() - 1);
    bool fits = m.label_words() ? once && e.targets == 0 && e.label >= 0 && e.label < m.labels
                                : e.targets > 0 && e.targets <= most &&
                                      (choices > 0 ? e.label >= 0 && e.label < choices : e.label == -1);
    if (!fits) throw Odd("");
    while (choices-- > 0) e.candidates.push_back(example(true));
    return e;
  }
};

// CRC-32 of all that decides, beside the tokenizer, which examples a text becomes.
std::string form(const Manifest& m, const Json& manifest) {
  std::string text;
  for (auto* name : {"objective", "template", "target", "label_column", "choices", "chat_template", "answer_at"})
    text += std::string(manifest.at(name)) + '\0';
  for (int64_t number : {m.mask_token, m.max_tokens, m.max_targets}) text += std::to_string(number) + '\0';
  for (auto& label : manifest.at("labels")) text += std::string(label.at("name")) + '\0';
  for (auto& token : manifest.at("stop_tokens")) text += std::to_string(token.get<int64_t>()) + '\0';
  return crc32(text);
}

// 64 bits that look random: the finalizer of SplitMix64 over one number at a time.
uint64_t scramble(int64_t seed, int64_t epoch, int64_t what, int64_t place) {
  uint64_t state = 0;
  for (int64_t number : {seed, epoch, what, place}) {
    state = (state ^ static_cast<uint64_t>(number)) + 0x9E3779B97F4A7C15;
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9;
    state = (state ^ state >> 27) * 0x94D049BB133111EB;
    state ^= state >> 31;
  }
  return state;
}

template <class Key>
void sort_by(std::vector<int64_t>& items, Key key) {
  std::stable_sort(items.begin(), items.end(), [&](int64_t a, int64_t b) { return key(a) < key(b); });
}

}  // namespace

Examples Examples::read(const std::string& path, const Manifest& m) {
  auto held = Tensors<int32_t>::read(path, "a file of `prge pack`");
  Json manifest = parse_json(m.json);
  if (!held.metadata.contains("packed") || !held.vectors.count("words"))
    throw Error(path + " is not a file of `prge pack`");
  if (held.text("packed") != "1")
    throw Error(path + " has version " + held.text("packed") + ", not 1; pack the data again");
  if (held.text("tokenizer_sha256") != manifest.at("tokenizer_sha256"))
    throw Error(path + " was packed with another tokenizer than the program's; pack the data again");
  if (held.text("form") != form(m, manifest))
    throw Error(path + " was packed for a program with another template, other labels or another bound of tokens; "
                "pack the data again");
  try {
    auto count = [&](const char* name) { return whole(parse_json(held.text(name))); };
    auto& words = held.vectors["words"];
    Examples found{path, {}, {}, count("dropped"), crc32(bytes_of(words))};
    Reader reader{words, m};
    for (int64_t i = count("train"); i > 0; i--) found.train.push_back(reader.example());
    for (int64_t i = count("dev"); i > 0; i--) found.dev.push_back(reader.example());
    if (reader.at != words.size() || found.train.empty()) throw Odd("");
    return found;
  } catch (const std::exception&) {
    throw Error(path + " is damaged: what it holds are no examples of this program");
  }
}

// Every class is shuffled, then sorted by length within windows of about 8 batches; the classes are spread evenly.
const Batch& Batches::at(int64_t number) {
  int64_t total = examples_.size(), windows = std::max<int64_t>(1, total / (8 * size_));
  int64_t each = (total + size_ - 1) / size_, epoch = number / each;
  if (std::exchange(epoch_, epoch) == epoch) return groups_[number % each];
  std::map<int32_t, size_t> seen;  // classes, by first occurrence
  std::vector<std::vector<int64_t>> classes;
  for (int64_t i = 0; i < total; i++) {
    size_t place = seen.emplace(examples_[i].label, seen.size()).first->second;
    classes.resize(seen.size());
    classes[place].push_back(i);
  }
  std::vector<int64_t> window(total), merged, order(each);
  std::vector<double> share(total);
  for (auto& members : classes) {
    int64_t n = members.size();
    sort_by(members, [&](int64_t i) { return scramble(seed_, epoch, 0, i); });
    for (int64_t rank = 0; rank < n; rank++) window[members[rank]] = rank * windows / n;
    sort_by(members, [&](int64_t i) { return std::pair(window[i], examples_[i].tokens.size()); });
    for (int64_t rank = 0; rank < n; rank++)
      share[members[rank]] = (static_cast<double>(rank) + 0.5) / static_cast<double>(n);
    merged.insert(merged.end(), members.begin(), members.end());
  }
  sort_by(merged, [&](int64_t i) { return share[i]; });
  while (merged.size() % size_) merged.push_back(merged[merged.size() % total]);
  std::iota(order.begin(), order.end(), 0);
  sort_by(order, [&](int64_t i) { return scramble(seed_, epoch, 1, i); });
  groups_.clear();
  for (int64_t group : order) {
    groups_.emplace_back();
    for (int64_t i = 0; i < size_; i++) groups_.back().push_back(&examples_[merged[group * size_ + i]]);
  }
  return groups_[number % each];
}

}  // namespace prge
