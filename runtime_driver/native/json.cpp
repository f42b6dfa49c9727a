#include <charconv>
#include <cmath>

#include "internal.h"

namespace prge {
namespace {

struct Parser {
  std::string_view text;
  size_t at = 0;
  int depth = 0;

  [[noreturn]] void fail() const { throw Error("not JSON at byte " + std::to_string(at)); }
  void space() { at = std::min(text.find_first_not_of(" \t\n\r", at), text.size()); }
  bool take(std::string_view word) {
    if (text.substr(at, word.size()) != word) return false;
    at += word.size();
    return true;
  }

  Json value() {
    Json found;
    space();
    if (++depth > 64) fail();
    if (take("{") || take("[")) {
      found.kind = text[at - 1] == '{' ? Json::kObject : Json::kArray;
      const char* end = found.kind == Json::kObject ? "}" : "]";
      space();
      if (!take(end)) {
        do {
          space();
          if (found.kind == Json::kObject) {
            if (!take("\"")) fail();
            found.names.push_back(string());
            space();
            if (!take(":")) fail();
          }
          found.items.push_back(value());
        } while (take(","));
        if (!take(end)) fail();
      }
    } else if (take("\"")) {
      found = string();
    } else if (take("true") || take("false")) {
      found = text[at - 2] == 'u';
    } else if (!take("null")) {
      found = number();
    }
    depth--;
    space();
    return found;
  }

  Json number() {
    if (take("NaN")) return std::nan("");
    if (take("Infinity")) return HUGE_VAL;
    if (take("-Infinity")) return -HUGE_VAL;
    const char* begin = text.data() + at;
    const char* end = begin + (std::min(text.find_first_not_of("+-.0123456789eE", at), text.size()) - at);
    at += end - begin;
    int64_t whole = 0;
    if (auto [rest, error] = std::from_chars(begin, end, whole); rest == end && error == std::errc()) return whole;
    double real = 0;
    if (auto [rest, error] = std::from_chars(begin, end, real); rest != end || error != std::errc()) fail();
    return real;
  }

  unsigned four() {
    unsigned code = 0;
    const char* begin = text.data() + at;
    if (at + 4 > text.size() || std::from_chars(begin, begin + 4, code, 16).ptr != begin + 4) fail();
    at += 4;
    return code;
  }

  std::string string() {
    std::string out;
    while (!take("\"")) {
      if (at >= text.size() || static_cast<unsigned char>(text[at]) < ' ') fail();
      if (!take("\\")) {
        out += text[at++];
      } else if (take("u")) {
        unsigned code = four();
        if (code >> 10 == 0x36 && take("\\u")) code = 0x10000 + ((code & 0x3FF) << 10) + (four() & 0x3FF);
        int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;  // bytes of UTF-8
        out += static_cast<char>("\0\xC0\xE0\xF0"[more] | code >> 6 * more);
        while (more--) out += static_cast<char>(0x80 | (code >> 6 * more & 0x3F));
      } else {
        size_t which = std::string_view("\"\\/bfnrt").find(at < text.size() ? text[at++] : '\0');
        if (which == std::string_view::npos) fail();
        out += "\"\\/\b\f\n\r\t"[which];
      }
    }
    return out;
  }
};

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    char code[8];
    if (std::snprintf(code, sizeof code, "\\u%04x", c); static_cast<unsigned char>(c) < ' ') {
      out += code;
    } else {
      out += c == '"' || c == '\\' ? std::string{'\\', c} : std::string{c};
    }
  }
  return out + "\"";
}

std::string shortest(double number) {
  if (!std::isfinite(number)) return std::isnan(number) ? "NaN" : number > 0 ? "Infinity" : "-Infinity";
  char digits[32];
  std::string text(digits, std::to_chars(digits, digits + sizeof digits, number).ptr);
  return text.find_first_of(".e") == std::string::npos ? text + ".0" : text;
}

}  // namespace

Json Json::parse(std::string_view text) {
  Parser parser{text};
  Json found = parser.value();
  if (parser.at != text.size()) parser.fail();
  return found;
}

std::string Json::dump() const {
  if (kind == kNull) return "null";
  if (kind == kBool) return whole ? "true" : "false";
  if (kind == kInteger) return std::to_string(whole);
  if (kind == kReal) return shortest(real);
  if (kind == kText) return quoted(string);
  std::string out;
  for (size_t i = 0; i < items.size(); i++)
    out += (i ? ", " : "") + (kind == kObject ? quoted(names[i]) + ": " : "") + items[i].dump();
  return kind == kObject ? "{" + out + "}" : "[" + out + "]";
}

const Json* Json::find(std::string_view name) const {
  for (size_t i = 0; i < names.size(); i++)
    if (names[i] == name) return &items[i];
  return nullptr;
}

const Json& Json::operator[](std::string_view name) const {
  if (auto* found = find(name)) return *found;
  throw Error("no field '" + std::string(name) + "'");
}

const Json& Json::expect(Kind expected) const {
  static const char* const kNames[] = {"null", "true or false", "a whole number", "a number", "text", "a list",
                                       "an object"};
  if (kind != expected) throw Error(std::string("found ") + kNames[kind] + " instead of " + kNames[expected]);
  return *this;
}

}  // namespace prge
