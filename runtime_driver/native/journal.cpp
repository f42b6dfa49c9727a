#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "internal.h"

namespace prge {
namespace {

constexpr const char* kMark = ",\"crc\":\"";

}  // namespace

Journal::Journal(const std::string& path) : path_(path) {
  file_ = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (file_ < 0) unwritable();
  if (flock(file_, LOCK_EX | LOCK_NB) == 0) return;
  close(file_);
  throw Error(path + " is in use: another process trains there");
}

Journal::~Journal() { close(file_); }

void Journal::unwritable() const { throw Error(path_ + " cannot be written: " + std::strerror(errno)); }

void Journal::read(const std::function<void(const Json&)>& each) {
  std::string data = read_file(path_);
  // A last line without its end is what a run that was cut off leaves.
  for (size_t at = 0, end; (end = data.find('\n', at)) != std::string::npos; at = end + 1) {
    std::string line = data.substr(at, end - at);
    size_t mark = line.rfind(kMark);
    try {
      std::string text = line.substr(0, mark) + "}";
      bool unharmed = mark != std::string::npos && line.substr(mark) == kMark + hex(crc32(text)) + "\"}";
      Json row = parse_json(text);
      if (!unharmed || row.at("step") != ends_.size()) throw Error("");
      each(row);
    } catch (const std::exception&) {
      throw Error(path_ + " is damaged at byte " + std::to_string(at) + " (record " + std::to_string(ends_.size() + 1) +
                  "); what follows is no use");
    }
    ends_.push_back(end + 1);
  }
}

void Journal::cut(size_t count) {
  ends_.resize(count);
  if (ftruncate(file_, count ? ends_.back() : 0) != 0) unwritable();
}

void Journal::append(const Json& row) {
  std::string text = dump(row);
  std::string line = text.substr(0, text.size() - 1) + kMark + hex(crc32(text)) + "\"}\n";
  if (write(file_, line.data(), line.size()) != static_cast<ssize_t>(line.size())) unwritable();
}

void Journal::sync() const {
  if (fsync(file_) != 0) unwritable();
}

}  // namespace prge
