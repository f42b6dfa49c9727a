#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <set>

#include "internal.h"

namespace prge {
namespace {

constexpr const char *kMark = ",\"crc\":\"", *kPlace = "\"crc\":\"";
template <class Number>
constexpr const char* kType = std::is_same_v<Number, float> ? "F32" : "I32";

void check(bool done, const std::string& path, const char* what = "written") {
  if (!done) throw Error(path + " cannot be " + what + ": " + std::strerror(errno));
}

}  // namespace

// Where the eight digits of the checksum stand in a header, or npos.
size_t crc_place(std::string_view header) {
  for (size_t at = 0; (at = header.find(kPlace, at)) != header.npos; at++)
    if (size_t end = header.find_first_not_of("0123456789abcdef", at + 7); end == at + 15 && header[end] == '"')
      return at + 7;
  return header.npos;
}

Json parse_json(std::string_view text) try {
  // The library reads values of any depth, but to copy a deep one overflows the stack.
  return Json::parse(text, [](int depth, Json::parse_event_t, Json&) {
    return depth < 64 ? true : throw Odd("it is nested too deep");
  });
} catch (const Json::exception&) {  // its text may quote bytes that are not UTF-8
  throw Odd("it is not JSON");
}

std::string dump(const Json& json) { return json.dump(-1, ' ', true, Json::error_handler_t::replace); }

int64_t whole(const Json& json, int64_t most) {
  if (!json.is_number_integer() || json < 0 || json > most) throw Odd(dump(json) + " is out of bounds");
  return json;
}

uint32_t crc32_on(uint32_t crc, std::string_view data) {
  static const auto table = [] {
    std::array<uint32_t, 256> made{};
    for (uint32_t i = 0; i < 256; i++) {
      made[i] = i;
      for (int bit = 0; bit < 8; bit++) made[i] = made[i] >> 1 ^ (made[i] & 1 ? 0xEDB88320u : 0);
    }
    return made;
  }();
  crc = ~crc;
  for (unsigned char byte : data) crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8;
  return ~crc;
}

std::string crc32(std::string_view data) { return hex(crc32_on(0, data)); }

std::string hex(uint32_t number) {
  char digits[9];
  std::snprintf(digits, sizeof digits, "%08x", number);
  return digits;
}

bool finite(const std::vector<float>& numbers) {
  return std::all_of(numbers.begin(), numbers.end(), [](float number) { return std::isfinite(number); });
}

double since(Clock::time_point began) { return std::chrono::duration<double>(Clock::now() - began).count(); }

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  file.peek();  // a folder can be opened, but not read
  check(file.is_open() && !file.bad(), path, "read");
  return {std::istreambuf_iterator<char>(file), {}};
}

void replace_file(const std::string& from, const std::string& to) {
  check(std::rename(from.c_str(), to.c_str()) == 0, to);
}

void write_file(const std::string& path, const Content& content) {
  std::string scratch = scratch_of(path);
  File file(scratch, O_WRONLY | O_CREAT | O_TRUNC, path);
  file.write(content);
  file.sync();
  replace_file(scratch, path);
}

std::string scratch_of(const std::string& path) { return fs::path(path).replace_extension("partial").string(); }

// A record lock is all that Java knows; so the drivers in all languages keep out of each other's runs.
static bool lock(int file) {
  if (flock(file, LOCK_EX | LOCK_NB) != 0) return false;
#ifdef F_OFD_SETLK
  struct flock whole{};
  whole.l_type = F_WRLCK;
  if (fcntl(file, F_OFD_SETLK, &whole) != 0 && errno != EINVAL) return false;  // that is a kernel which has none
#endif
  return true;
}

File::File(const std::string& path, int flags, const std::string& called)
    : path_(called.empty() ? path : called), number_(open(path.c_str(), flags | O_CLOEXEC, 0666)) {
  check(number_ >= 0, path_);
  if (!(flags & O_APPEND) || lock(number_)) return;
  close(number_);
  throw Error(path + " is in use: another process trains there");
}

void File::begin_alone(const std::string& path) {
  struct stat here{}, there{};
  bool locked = lock(number_);
  // The other process may have renamed it since it was opened here.
  bool same = fstat(number_, &here) == 0 && stat(path.c_str(), &there) == 0 && here.st_ino == there.st_ino;
  if (!locked || !same) throw Error(path_ + " is being written by another process; wait for it, and run this again");
  check(ftruncate(number_, 0) == 0, path_);
}

File::~File() { close(number_); }

void File::write(std::string_view data) {
  errno = ENOSPC;  // why only a part is written, where the system does not say
  check(::write(number_, data.data(), data.size()) == static_cast<ssize_t>(data.size()), path_);
}

void File::write(const Content& content) {
  write(content.head);
  for (auto part : content.rest) write(part);
}

void File::write_at(size_t place, std::string_view data) {
  errno = ENOSPC;
  check(pwrite(number_, data.data(), data.size(), static_cast<off_t>(place)) == static_cast<ssize_t>(data.size()),
        path_);
}

void File::read_at(size_t place, char* to, size_t size) const {
  errno = EIO;  // the reason where the file ends too early
  check(pread(number_, to, size, static_cast<off_t>(place)) == static_cast<ssize_t>(size), path_, "read");
}

void File::allocate(size_t size) {
  errno = posix_fallocate(number_, 0, static_cast<off_t>(size));
  check(errno == 0, path_);
}

size_t File::size() const {
  struct stat found;
  check(fstat(number_, &found) == 0, path_, "read");
  return found.st_size;
}

void File::sync() { check(fsync(number_) == 0, path_); }

std::string checked_header(Json metadata, const Json& tensors) {
  metadata["crc"] = "00000000";
  Json header = {{"__metadata__", metadata}};
  header.update(tensors);
  std::string all = dump(header);
  all.resize((all.size() + 7) / 8 * 8, ' ');
  uint64_t length = all.size();
  return all.insert(0, reinterpret_cast<char*>(&length), 8);
}

Content checked(Json metadata, std::initializer_list<Vector> vectors) {
  Json tensors = Json::object();
  Content content;
  size_t end = 0;
  for (auto [name, numbers] : vectors) {
    content.rest.push_back(bytes_of(numbers));
    size_t from = std::exchange(end, end + bytes_of(numbers).size());
    if (!numbers.empty())
      tensors[name] = {{"dtype", "F32"}, {"shape", {numbers.size()}}, {"data_offsets", {from, end}}};
  }
  content.head = checked_header(std::move(metadata), tensors);
  uint32_t crc = crc32_on(0, content.head);
  for (auto part : content.rest) crc = crc32_on(crc, part);
  content.head.replace(crc_place(content.head), 8, hex(crc));
  return content;
}

template <class Number>
Tensors<Number> Tensors<Number>::read(const std::string& path, const std::string& what, bool required) {
  std::string all = read_file(path);
  uint64_t length = 0;
  std::memcpy(&length, all.data(), std::min<size_t>(all.size(), 8));
  auto header = std::string_view(all).substr(std::min<size_t>(all.size(), 8), length);
  if (size_t place = crc_place(header); place != header.npos) {
    std::string crc(header.substr(place, 8));
    if (crc32(all.replace(8 + place, 8, 8, '0')) != crc)
      throw Error(path + " is damaged: its checksum does not fit its content");
  } else if (required) {
    throw Error(path + " is damaged, or not " + what + ": it has no checksum");
  }
  try {
    if (header.size() != length) throw Odd("it ends too early");
    Json described = parse_json(header);
    const char* data = header.data() + length;
    Tensors found{described.value("__metadata__", Json::object()), {}};
    for (auto& text : found.metadata.get_ref<const Json::object_t&>()) (void)text.second.get_ref<const std::string&>();
    described.erase("__metadata__");
    std::set<std::pair<int64_t, int64_t>> parts;  // of the data, which must follow each other up to the end
    for (auto& [name, tensor] : described.items()) {
      const Json &shape = tensor.at("shape"), &offsets = tensor.at("data_offsets");
      if (tensor.at("dtype") != kType<Number> || shape.size() != 1 || offsets.size() != 2)
        throw Odd(std::string("its tensors are not vectors of ") + kType<Number>);
      auto& numbers = found.vectors[name];
      int64_t to = whole(offsets.at(1), all.data() + all.size() - data), from = whole(offsets.at(0), to);
      if (from + 4 * whole(shape.at(0)) != to) throw Odd("the shape of " + name + " is not that of its data");
      numbers.resize((to - from) / 4);
      std::copy_n(data + from, to - from, reinterpret_cast<char*>(numbers.data()));
      parts.emplace(from, to);
    }
    int64_t end = 0;
    for (auto [from, to] : parts)
      if (std::exchange(end, to) != from) throw Odd("its tensors do not follow each other");
    if (data + end != all.data() + all.size()) throw Odd("its tensors do not fill it");
    return found;
  } catch (const std::exception& e) {
    throw Error(path + " is not " + what + ": " + e.what());
  }
}

template struct Tensors<float>;
template struct Tensors<int32_t>;

void Journal::read(const std::function<void(const Json&)>& each) {
  std::string data = read_file(path_);
  // A run that was cut off leaves a last line without its end.
  for (size_t at = 0, end; (end = data.find('\n', at)) != std::string::npos; at = end + 1) {
    std::string line = data.substr(at, end - at);
    size_t mark = line.rfind(kMark);
    try {
      std::string text = line.substr(0, mark) + "}";
      bool unharmed = mark != std::string::npos && line.substr(mark) == kMark + crc32(text) + "\"}";
      Json row = parse_json(text);
      if (!unharmed || row.at("step") != ends_.size()) throw Odd("");
      each(row);
    } catch (const std::exception&) {
      throw Error(path_ + " is damaged at byte " + std::to_string(at) + " (record " + std::to_string(ends_.size() + 1) +
                  "); what follows is no use");
    }
    ends_.push_back(end + 1);
  }
}

void Journal::keep(size_t count) {
  ends_.resize(count);
  check(ftruncate(number_, count ? static_cast<off_t>(ends_.back()) : 0) == 0, path_);
}

void Journal::append(const Json& row) {
  std::string text = dump(row);
  write(text.substr(0, text.size() - 1) + kMark + crc32(text) + "\"}\n");
}

}  // namespace prge
