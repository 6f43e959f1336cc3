"""Mistakes of users. Each marked line, and no other, is reported by the type checkers named in its mark."""

from fairqued import Priority, Task, TaskHandle, TaskQueue, as_user, task

queue = TaskQueue("redis://localhost:6379/0")


@task
def thumbnail(path: str, width: int) -> dict[str, int]:
    return {path: width}


@task(priority=Priority.HIGH, retry_on=[OSError])
def resize(path: str, *, width: int = 100) -> int:
    return len(path) * width


@task
async def fetch(url: str) -> bytes:
    return url.encode()


@task(queue="mail")
async def send(to: str) -> bool:
    return bool(to)


# Arguments of .task()
thumbnail.task(1, 2)  # E: mypy=arg-type pyright=reportArgumentType
thumbnail.task("a.png")  # E: mypy=call-arg pyright=reportCallIssue
thumbnail.task("a.png", 1, 2)  # E: mypy=call-arg pyright=reportCallIssue
thumbnail.task("a.png", height=1)  # E: mypy=call-arg pyright=reportCallIssue
resize.task("a.png", 100)  # E: mypy=call-arg pyright=reportCallIssue
resize.task(width=100)  # E: mypy=call-arg pyright=reportCallIssue
fetch.task(b"https://example.org")  # E: mypy=arg-type pyright=reportArgumentType
send.task()  # E: mypy=call-arg pyright=reportCallIssue

# Arguments of .enqueue()
thumbnail.enqueue("a.png", "200")  # E: mypy=arg-type pyright=reportArgumentType
thumbnail.enqueue()  # E: mypy=call-arg pyright=reportCallIssue
resize.enqueue("a.png", width="100")  # E: mypy=arg-type pyright=reportArgumentType
fetch.enqueue(None)  # E: mypy=arg-type pyright=reportArgumentType
send.enqueue("bob", "carol")  # E: mypy=call-arg pyright=reportCallIssue

# Options of .using(), and the signature behind it
thumbnail.using(user_id=7)  # E: mypy=arg-type pyright=reportArgumentType
thumbnail.using(user="alice")  # E: mypy=call-arg pyright=reportCallIssue
thumbnail.using(priority="high")  # E: mypy=arg-type pyright=reportArgumentType
thumbnail.using(retry_on=[OSError])  # E: mypy=call-arg pyright=reportCallIssue
thumbnail.using("alice")  # E: mypy=arg-type,call-arg pyright=reportCallIssue
thumbnail.using(user_id="alice").task("a.png")  # E: mypy=call-arg pyright=reportCallIssue
resize.using(delay_seconds=1).enqueue(1)  # E: mypy=arg-type pyright=reportArgumentType
send.using(max_retries=1).task(to=1)  # E: mypy=arg-type pyright=reportArgumentType

# Direct calls
thumbnail("a.png")  # E: mypy=call-arg pyright=reportCallIssue
resize("a.png", width="100")  # E: mypy=arg-type pyright=reportArgumentType
length: int = fetch("https://example.org")  # E: mypy=assignment pyright=reportAssignmentType
thumbnail.delay("a.png", 200)  # E: mypy=attr-defined pyright=reportAttributeAccessIssue

# Options of @task
task(max_retries="3")  # E: mypy=call-overload pyright=reportArgumentType
task(retries=3)  # E: mypy=call-overload pyright=reportCallIssue
task(retry_on=["OSError"])  # E: mypy=list-item pyright=reportArgumentType
task("mail")  # E: mypy=call-overload pyright=reportArgumentType,reportCallIssue

# Arguments of the queue, of Task and of as_user
queue.enqueue(thumbnail)  # E: mypy=arg-type pyright=reportArgumentType
queue.enqueue("thumbnail")  # E: mypy=arg-type pyright=reportArgumentType
queue.enqueue(thumbnail.task("a.png", 1), user="alice")  # E: mypy=call-arg pyright=reportCallIssue
queue.enqueue(thumbnail.task("a.png", 1), delay_seconds="60")  # E: mypy=arg-type pyright=reportArgumentType
queue.enqueue(thumbnail.task("a.png", 1), if_exists="skip")  # E: mypy=arg-type pyright=reportArgumentType
queue.enqueue(thumbnail.task("a.png", 1), name="thumb")  # E: mypy=call-arg pyright=reportCallIssue
queue.enqueue_many([1, 2])  # E: mypy=arg-type pyright=reportArgumentType
queue.enqueue_many(thumbnail.task("a.png", 1))  # E: mypy=arg-type pyright=reportArgumentType
Task("report")  # E: mypy=call-arg pyright=reportCallIssue
Task(payload="report", queue=1)  # E: mypy=arg-type pyright=reportArgumentType
as_user(7)  # E: mypy=arg-type pyright=reportArgumentType

# Results
text: str = thumbnail.enqueue("a.png", 1).result()  # E: mypy=assignment pyright=reportAssignmentType
number: int = queue.enqueue(thumbnail.task("a.png", 1)).result()  # E: mypy=assignment pyright=reportAssignmentType
size: int = queue.enqueue(fetch.task("a")).result()  # E: mypy=assignment pyright=reportAssignmentType
sent: str = send.enqueue("bob").result()  # E: mypy=assignment pyright=reportAssignmentType
handles = queue.enqueue_many([send.task("bob"), fetch.task("a")])
first: int = handles[0].result()  # E: mypy=assignment pyright=reportAssignmentType
thumbnail.enqueue("a.png", 1).result(timeout="1")  # E: mypy=call-arg pyright=reportCallIssue

# Variance: a wider result does not go where a narrower one is expected.
narrow: Task[bool] = resize.task("a.png")  # E: mypy=assignment pyright=reportAssignmentType
other: Task[str] = send.task("bob")  # E: mypy=assignment pyright=reportAssignmentType
narrow_handle: TaskHandle[bool] = resize.enqueue("a.png")  # E: mypy=assignment pyright=reportAssignmentType
