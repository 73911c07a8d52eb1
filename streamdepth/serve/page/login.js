// The token is typed in, or is in the link after #, which browsers do not send.
const form = document.getElementById("login");
const field = document.getElementById("token");
const problem = document.getElementById("problem");

async function enter(token) {
  let answer;
  try {
    answer = await fetch("/login", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ token }),
    });
  } catch {
    problem.textContent = "The server does not respond.";
    return;
  }
  if (answer.ok) {
    location.replace("/");
    return;
  }
  problem.textContent = "Wrong token.";
  field.select();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  enter(field.value.trim());
});

function read() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!given) return;
  history.replaceState(null, "", location.pathname);
  enter(given);
}

window.addEventListener("hashchange", read);
read();
