// SPDX-License-Identifier: BSD-2-Clause
#include "extension/courier.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <utility>

#include <fmt/format.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "extension/backoff.h"
#include "extension/sql_session.h"

namespace pgmemtrace {

namespace {

using namespace std::chrono_literals;

constexpr auto kIdle = 5s; // then it hangs up
constexpr auto kFirstRetry = 100ms;
constexpr auto kRarestRetry = 30s;

// Does this connection lead to the server that it should?  Its backend is a child of the postmaster
// then.  nullopt: the kernel does not tell who the children are.
std::optional<bool> leads_to(pid_t postmaster, pid_t backend_pid)
{
  const Proc proc;
  const auto children = proc.children(postmaster);
  if (!children)
    return std::nullopt;
  return std::any_of(children->rbegin(), children->rend(),
                     [&](pid_t child) { return proc.namespace_pid(child) == backend_pid; });
}

std::string number(std::uint64_t value) { return std::to_string(value); }

} // namespace

Courier::Courier(SqlLogin login, std::string server, int news)
    : login_(std::move(login)), server_(std::move(server)), news_fd_(news),
      stop_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), thread_([this] { run(); })
{
}

Courier::~Courier()
{
  stop();
  thread_.join();
}

void Courier::stop()
{
  stopping_ = true;
  (void)eventfd_write(stop_fd_.get(), 1);
  const std::lock_guard lock(mutex_);
  changed_.notify_all();
}

void Courier::put(Answer answer)
{
  const std::lock_guard lock(mutex_);
  outbox_.put(std::move(answer));
  changed_.notify_all();
}

void Courier::put_violation(std::string json)
{
  const std::lock_guard lock(mutex_);
  outbox_.put_violation(std::move(json));
  changed_.notify_all();
}

void Courier::ask()
{
  const std::lock_guard lock(mutex_);
  outbox_.ask();
  changed_.notify_all();
}

Courier::News Courier::take_news()
{
  const std::lock_guard lock(mutex_);
  return std::exchange(news_, {});
}

Courier::Lost Courier::lost() const
{
  const std::lock_guard lock(mutex_);
  return {lost_.answers + outbox_.dropped().answers,
          lost_.violations + outbox_.dropped().violations};
}

// ---- the thread ----

void Courier::run()
{
  take_identity();
  Backoff backoff(kFirstRetry, kRarestRetry);
  std::unique_ptr<SqlSession> session;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const auto something = [this] { return stopping_ || !outbox_.empty(); };
    if (!session)
      changed_.wait(lock, something);
    else if (!changed_.wait_for(lock, kIdle, something))
      session.reset();
    if (stopping_ || outbox_.empty())
      continue;
    lock.unlock();
    if (!session && !connect(session)) {
      wait_for_stop(backoff.next());
    } else {
      say(*session);
      if (session->alive()) {
        backoff.succeeded();
      } else {
        session.reset();
        wait_for_stop(backoff.next());
      }
    }
    lock.lock();
  }
  ended_ = true;
}

// By system calls: the C library's functions would change all threads.  What is not permitted is
// seen by the server, which then refuses.
void Courier::take_identity() const
{
  if (login_.owner && login_.owner->uid != geteuid()) {
    const auto [uid, gid] = *login_.owner;
    (void)syscall(SYS_setgroups, 0, nullptr);
    (void)syscall(SYS_setresgid, gid, gid, gid);
    (void)syscall(SYS_setresuid, uid, uid, uid);
  }
  // From root they go by themselves; a service of another user would keep them.
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  const __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3]{};
  (void)syscall(SYS_capset, &header, none);
}

void Courier::wait_for_stop(Duration limit) const
{
  pollfd waiting{stop_fd_.get(), POLLIN, 0};
  (void)poll(&waiting, 1, static_cast<int>(limit.count()));
}

bool Courier::connect(std::unique_ptr<SqlSession> &session)
{
  auto connected = SqlSession::connect(login_.parameters, stop_fd_.get());
  if (!connected) {
    complain("connect", connected.error(), "--dsn says how; it is tried again");
    return false;
  }
  if (!leads_to(login_.postmaster, connected->backend_pid()).value_or(true)) {
    complain("connect", Error{"--dsn leads to another server", 0, {}},
             "it should have no host if there are several servers, and not lead to a pooler");
    return false;
  }
  session = std::make_unique<SqlSession>(std::move(*connected));
  return true;
}

// One thing, the most urgent.
void Courier::say(SqlSession &session)
{
  std::unique_lock lock(mutex_);
  auto answer = outbox_.take_answer();
  const bool asks = !answer && outbox_.take_ask();
  auto violation = answer || asks ? std::nullopt : outbox_.take_violation();
  lock.unlock();
  if (answer)
    say(session, std::move(*answer));
  else if (asks)
    question(session);
  else if (violation)
    tell(session, std::move(*violation));
}

void Courier::say(SqlSession &session, Answer answer)
{
  const auto send = [&](const std::string &json, const std::string &error) {
    return session.query("SELECT pgmemtrace.answer($1::int4, $2::int8, $3::jsonb, $4::text)",
                         {std::to_string(answer.backend_pid), number(answer.request_id),
                          json.empty() ? SqlSession::Value() : json,
                          error.empty() ? SqlSession::Value() : error});
  };
  auto sent = send(answer.json, answer.error);
  // Sessions give up by themselves: "too late" and the like are no failures.
  const bool too_large = sent && !sent->empty() && sent->front().front() == "too large";
  if (session.alive() && (!sent || too_large))
    sent = send({}, too_large ? "the answer is larger than 64 MiB" : sent.error().what);
  if (sent) {
    complaint_.clear();
    return;
  }
  complain("answer", sent.error(), {});
  const std::lock_guard lock(mutex_);
  if (session.alive())
    ++lost_.answers;
  else
    outbox_.put(std::move(answer)); // whoever waits may wait still
}

void Courier::tell(SqlSession &session, std::string violation)
{
  const auto told = session.query("SELECT pgmemtrace.log_violation($1::jsonb)", {violation});
  if (told) {
    complaint_.clear();
    return; // "false": its ring is full, and it counts that itself
  }
  complain("write the violation log", told.error(), {});
  const std::lock_guard lock(mutex_);
  if (session.alive())
    ++lost_.violations;
  else
    outbox_.put_violation(std::move(violation));
}

void Courier::question(SqlSession &session)
{
  const auto rows = session.query("SELECT request_id, kind, request FROM pgmemtrace.requests()");
  if (!rows) {
    complain("ask who waits", rows.error(),
             fmt::format("CREATE EXTENSION pgmemtrace in database {}, or name another one: "
                         "--dsn 'dbname=...'",
                         login_.parameters.at("dbname")));
    if (!session.alive())
      ask();
    return;
  }
  complaint_.clear();
  const std::lock_guard lock(mutex_);
  for (const auto &row : *rows) {
    Waiting waiting{.id = 0, .kind = row[1].value_or(""), .json = row[2].value_or("")};
    const auto id = row[0].value_or("");
    std::from_chars(id.data(), id.data() + id.size(), waiting.id);
    news_.waiting.push_back(std::move(waiting));
  }
  if (!rows->empty())
    (void)eventfd_write(news_fd_, 1);
}

void Courier::complain(const std::string &doing, const Error &why, std::string hint)
{
  if (why.err == ECANCELED || why.what == complaint_)
    return;
  complaint_ = why.what;
  const std::lock_guard lock(mutex_);
  news_.errors.push_back(
      Error{fmt::format("{} ({}, for the pgmemtrace extension): {}", doing, server_, why.what),
            why.err, std::move(hint)});
  (void)eventfd_write(news_fd_, 1);
}

} // namespace pgmemtrace
