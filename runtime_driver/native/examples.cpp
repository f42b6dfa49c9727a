#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>

#include "internal.h"

namespace prge {
namespace {

constexpr std::string_view kMagic("\x89PRGE\r\n\x1a", 8);
constexpr size_t kHeader = 64;

struct Reader {
  std::string_view words;  // 32 bits each
  const Manifest& m;
  size_t at = 0;

  int32_t next() {
    int32_t word;
    if (at + 4 > words.size()) throw Error("");
    std::memcpy(&word, words.data() + at, 4);
    at += 4;
    return word;
  }

  Example example(bool candidate = false) {
    Example e{next(), next(), {}, {}};
    int32_t count = next(), choices = next();
    if (count < 1 || count > m.max_tokens || choices < 0 ||
        (choices > 0) != (m.choices && !candidate))
      throw Error("");
    for (e.tokens.reserve(count); count > 0; count--) e.tokens.push_back(next());
    for (int32_t token : e.tokens)
      if (token < 0 || token >= m.vocabulary) throw Error("");
    bool once = m.answer_at != "mask" || std::count(e.tokens.begin(), e.tokens.end(), m.mask_token) == 1;
    int64_t most = std::min<int64_t>(m.max_targets, e.tokens.size() - 1);
    bool fits = m.label_words() ? once && e.targets == 0 && e.label >= 0 && e.label < m.labels
                                : e.targets > 0 && e.targets <= most &&
                                      (choices > 0 ? e.label >= 0 && e.label < choices : e.label == -1);
    if (!fits) throw Error("");
    while (choices-- > 0) e.candidates.push_back(example(true));
    return e;
  }
};

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

Examples Examples::read(const std::string& path, const Manifest& manifest) {
  std::string data = read_file(path);
  if (data.size() < kHeader + 4 || data.compare(0, 8, kMagic) != 0) throw Error(path + " is not a file of `prge pack`");
  uint32_t numbers[6], crc;  // version, form, training and dev examples, those left out, words
  std::memcpy(numbers, data.data() + 8, sizeof numbers);
  std::memcpy(&crc, &data[data.size() - 4], 4);
  auto [version, form, train, dev, dropped, size] = numbers;
  std::string_view all = data, words = all.substr(kHeader, data.size() - kHeader - 4);
  if (version != 1) throw Error(path + " has version " + std::to_string(version) + ", not 1; pack the data again");
  if (words.size() != 4 * uint64_t{size} || crc32(all.substr(0, data.size() - 4)) != crc)
    throw Error(path + " is damaged: its size or its checksum is another; pack or copy it again");
  std::string tokenizer;
  for (int i = 32; i < 64; i++) tokenizer += hex(static_cast<unsigned char>(data[i])).substr(6);
  if (tokenizer != manifest.tokenizer_sha256)
    throw Error(path + " was packed with another tokenizer than the program's; pack the data again");
  if (form != manifest.form)
    throw Error(path + " was packed for a program with another template, other labels or another bound of tokens; "
                "pack the data again");
  try {
    Examples found{path, {}, {}, dropped, crc32(words)};
    Reader reader{words, manifest};
    for (uint32_t i = 0; i < train; i++) found.train.push_back(reader.example());
    for (uint32_t i = 0; i < dev; i++) found.dev.push_back(reader.example());
    if (reader.at != words.size() || !train) throw Error("");
    return found;
  } catch (const Error&) {
    throw Error(path + " is damaged: what it holds are no examples of this program");
  }
}

Batches::Batches(const std::vector<Example>& examples, int64_t size, int64_t seed)
    : examples_(examples), size_(size), seed_(seed) {}

const std::vector<int64_t>& Batches::at(int64_t number) {
  int64_t each = (examples_.size() + size_ - 1) / size_;
  if (number / each != epoch_) shuffle(number / each);
  return groups_[number % each];
}

// Shuffled, then sorted by length within windows of about 8 batches, class by class, the classes evenly spread.
void Batches::shuffle(int64_t epoch) {
  epoch_ = epoch;
  int64_t total = examples_.size(), windows = std::max<int64_t>(1, total / (8 * size_));
  std::vector<std::pair<int32_t, std::vector<int64_t>>> classes;  // by first occurrence
  std::map<int32_t, size_t> places;
  for (int64_t i = 0; i < total; i++) {
    auto [place, fresh] = places.emplace(examples_[i].label, classes.size());
    if (fresh) classes.push_back({examples_[i].label, {}});
    classes[place->second].second.push_back(i);
  }
  std::vector<double> rank(total), share(total);
  std::vector<int64_t> merged;
  for (auto& [label, members] : classes) {
    int64_t n = members.size();
    sort_by(members, [&](int64_t i) { return scramble(seed_, epoch, 0, i); });
    for (int64_t at = 0; at < n; at++) rank[members[at]] = static_cast<double>(at * windows / n);
    sort_by(members, [&](int64_t i) { return std::pair(rank[i], examples_[i].tokens.size()); });
    for (int64_t at = 0; at < n; at++) share[members[at]] = (static_cast<double>(at) + 0.5) / static_cast<double>(n);
    merged.insert(merged.end(), members.begin(), members.end());
  }
  sort_by(merged, [&](int64_t i) { return share[i]; });
  while (merged.size() % size_) merged.push_back(merged[merged.size() % total]);
  std::vector<int64_t> order(merged.size() / size_);
  std::iota(order.begin(), order.end(), 0);
  sort_by(order, [&](int64_t i) { return scramble(seed_, epoch, 1, i); });
  groups_.clear();
  for (int64_t i : order) groups_.emplace_back(merged.begin() + i * size_, merged.begin() + (i + 1) * size_);
}

}  // namespace prge
